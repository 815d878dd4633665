//! stub
#![allow(missing_docs, unused)]
use crate::model::*; use std::time::Duration; use tokio::sync::mpsc;
#[derive(Clone)] pub struct Redis;
impl Redis { pub fn new(t: Duration)->Self{Redis} pub async fn follow(&self,a:&Address,b:&Address)->anyhow::Result<()>{Ok(())}
pub async fn kick(&self,a:&Address,b:&Address)->anyhow::Result<()>{Ok(())}
pub async fn configure(&self,a:&Address,b:&[(String,String)])->anyhow::Result<()>{Ok(())}}
#[derive(Clone,Copy,PartialEq,Eq,Debug)] pub enum Pace{Eager,Steady(Duration)}
pub struct Target{pub task_id:String,pub address:Address,pub pace:Pace}
pub struct Prober; impl Prober{pub fn start(r:Redis,o:mpsc::Sender<Probe>)->Prober{Prober} pub fn set(&self,t:Target){} pub fn remove(&self,t:&str){}}
